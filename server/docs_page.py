"""Serve the page at /docs: the description of the routes, for people.

Guarantee: Drawdown renders the page from /openapi.json alone, and escapes each text. Its policy forbids scripts,
pictures and content of other hosts. Swagger UI would need a megabyte of script, and styles that a strict policy blocks.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

PATH: Final = "/docs"
STYLE: Final = """
body { font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; background: #fff }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: .85rem }
code { font-size: .9rem } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc } summary { cursor: pointer }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
.method { display: inline-block; min-width: 4rem; font-weight: bold }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616 } pre { background: #252525 }
a { color: #8bf } }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

Json = Mapping[str, Any]


def serve_docs(app: FastAPI) -> None:
    """Serve the page at PATH. A process creates the page once."""
    written: list[bytes] = []

    async def answer(_request: Request) -> Response:
        if not written:
            written.append(page(app.openapi()).encode())
        return HTMLResponse(written[0], headers={"content-security-policy": POLICY})

    app.add_route(PATH, answer, methods=["GET"], include_in_schema=False)


def page(found: Json) -> str:
    """Return the page of an OpenAPI description."""
    routes = [(path, method, one) for path, by_method in found["paths"].items() for method, one in by_method.items()]
    title = escape(found["info"]["title"])
    return "".join(
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: HTTP</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style></head><body><h1>{title}: HTTP</h1>",
            '<p>For programs: <a href="/openapi.json">/openapi.json</a>.</p><table>',
            *(f"<tr><td>{_link(path, method)}</td><td>{_first_line(one)}</td></tr>" for path, method, one in routes),
            "</table>",
            *(part for path, method, one in routes for part in _route(path, method, one)),
            "<h2>Shapes</h2>",
            *(_shape(name, schema) for name, schema in sorted(found["components"]["schemas"].items())),
            "</body></html>",
        )
    )


def _anchor(path: str, method: str) -> str:
    return escape(f"{method}-{path}")


def _link(path: str, method: str) -> str:
    return f'<a href="#{_anchor(path, method)}"><code>{method.upper()} {escape(path)}</code></a>'


def _first_line(one: Json) -> str:
    return escape(re.split(r"\.\s", str(one.get("description", "")), maxsplit=1)[0])


def _route(path: str, method: str, one: Json) -> Iterator[str]:
    yield f'<h2 id="{_anchor(path, method)}"><span class="method">{method.upper()}</span> <code>{escape(path)}</code>'
    yield f"</h2><p>{escape(str(one.get('description', '')))}</p>"
    yield from _proof(one.get("security", ()))
    yield from _parameters(one.get("parameters", ()))
    for kind, body in one.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body: <code>{escape(kind)}</code></h3>"
        yield from (_pre(example) for example in _examples(body))
        yield f"<details><summary>Schema</summary>{_pre(body['schema'])}</details>"
    yield "<h3>Answers</h3><table>"
    for status, answer in one["responses"].items():
        yield f"<tr><td><code>{escape(str(status))}</code></td><td>{escape(answer['description'])}</td>"
        yield f"<td>{_schema_links(answer)}</td></tr>"
    yield "</table>"
    for answer in one["responses"].values():
        for content in answer.get("content", {}).values():
            if "example" in content:
                yield f"<details><summary>Example response</summary>{_pre(content['example'])}</details>"


def _proof(security: Sequence[Json]) -> Iterator[str]:
    for one in security:
        named = ", ".join(f"{name} ({', '.join(scopes)})" if scopes else name for name, scopes in one.items())
        yield f"<p>Proof: <code>{escape(named)}</code></p>"


def _parameters(found: Sequence[Json]) -> Iterator[str]:
    if found:
        yield "<h3>Parameters</h3><table>"
        for one in found:
            must = "required" if one.get("required") else ""
            yield f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td><td>{must}</td>"
            yield f"<td><code>{escape(json.dumps(one.get('example')))}</code></td>"
            yield f"<td><code>{escape(json.dumps(one.get('schema', {})))}</code></td></tr>"
        yield "</table>"


def _examples(body: Json) -> Iterator[object]:
    if "example" in body:
        yield body["example"]
    yield from body.get("schema", {}).get("examples", ())


def _schema_links(answer: Json) -> str:
    schemas = [one.get("schema", {}) for one in answer.get("content", {}).values()]
    names = [schema["$ref"].rpartition("/")[2] for schema in schemas if "$ref" in schema]
    return ", ".join(f'<a href="#shape-{escape(name)}">{escape(name)}</a>' for name in names)


def _shape(name: str, schema: Json) -> str:
    return f'<h3 id="shape-{escape(name)}">{escape(name)}</h3>{_pre(schema)}'


def _pre(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
