"""Words that the project's style avoids do not become more, and a commit message is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import MODULES, walk
from tests import style
from tests.cases import cases

MOST_AVOIDED = dict.fromkeys(style.SURFACES, 0)
INTERNAL = {"docstrings", "statements"}
"""Surfaces that only contributors read."""
MOST_WORDS = 31_700
"""Of the pages that are written by hand."""
MOST_LONG_SENTENCES = 0
"""How many were left when this was last lowered. Lower it when you remove some."""
MOST_FIELDS = 33
"""Fields of classes that are named by a participle alone. Lower it when you rename one."""


@pytest.mark.parametrize("surface", style.SURFACES)
def test_style_avoided_words_do_not_increase(surface: str) -> None:
    counts = style.avoided(style.SURFACES[surface]())
    assert sum(counts.values()) <= MOST_AVOIDED[surface], counts


@pytest.mark.parametrize("surface", sorted(set(style.SURFACES) - INTERNAL))
def test_style_negated_nouns_in_user_texts_are_absent(surface: str) -> None:
    assert style.negated(style.SURFACES[surface]()) == []


def test_style_negated_noun_is_found_and_negated_verb_is_not() -> None:
    texts = ["x is no y", "all were none", "x is not a y", "x is no longer y", "if there is no y", "x is None"]
    assert [text for text in texts if style.negated(iter([("a", text)]))] == texts[:2]


def test_style_word_count_of_pages_does_not_increase() -> None:
    assert style.words(style.documents()) <= MOST_WORDS


def test_style_long_sentences_do_not_increase() -> None:
    found = style.long_sentences(style.documents())
    assert len(found) <= MOST_LONG_SENTENCES, found


def test_style_long_sentence_ends_with_its_cell_item_or_paragraph() -> None:
    words = "word " * style.LONGEST
    assert style.long_sentences(iter([("a", f"{words}. {words}\n\n{words}| {words}\n- {words}")])) == []
    assert [name for name, _ in style.long_sentences(iter([("a", f"{words}\nmore. {words}"), ("b", words)]))] == ["a"]


def test_style_help_summaries_are_short_and_plain() -> None:
    assert style.help_faults(style.helps()) == []


def test_style_help_fault_is_found_in_summary_option_and_sentence() -> None:
    long = "x" * (style.MOST_SUMMARY + 1)
    texts = [
        ("a", f"{long}\n{long}"),
        ("b", "List x.\nonly x"),
        ("c", "Who acts.\nOrganisation"),
        ("d", "Sum x.\nOffset"),
    ]
    assert [place for place, _ in style.help_faults(iter(texts))] == ["a", "b", "c"]


def test_command_section_summary_equals_help() -> None:
    tree = dict(walk(get_command(app)))
    wrong = [name for name, entry in MODULES.items() if (tree[(name,)].help or "").split("\n")[0] != f"{entry.says}."]
    assert wrong == []


def test_style_docstring_first_lines_fit_length_limit() -> None:
    assert [text for module in style.modules() for text in module.long_first_lines] == []


def test_style_long_first_line_is_found_in_each_docstring() -> None:
    long, fits = "x" * (style.MOST_FIRST_LINE + 1), "x" * style.MOST_FIRST_LINE
    text = (
        f'"""{long}"""\nclass A:\n """{fits}\n\n {long}"""\n async def f(self):\n  """{long}"""\nA = 1\n"""{long}"""\n'
    )
    found = style.read_module("a.py", text).long_first_lines
    assert found == [f"a.py:{line}: first line of 81 characters, at most 80" for line in (1, 7)]


def test_style_avoided_names_are_absent_from_code() -> None:
    assert [name for module in style.modules() for name in module.names] == []


def test_style_avoided_name_is_found_in_any_scope() -> None:
    text = "def told(): ...\nclass _Left:\n async def said(self):\n  def Found(): ...\n  told_by = left = tell()\n"
    names = style.read_module("a.py", text).names
    assert sorted(names) == ["a.py: Found", "a.py: _Left", "a.py: said", "a.py: told"]


def test_style_participle_fields_do_not_increase() -> None:
    found = [name for module in style.modules() for name in module.fields]
    assert len(found) <= MOST_FIELDS, found


def test_style_participle_field_is_found_only_in_classes() -> None:
    text = "left: int\nclass Rest:\n left: int = 0\n lines: int\n left_micro: int\n def cut(self):\n  said: int = 1\n"
    assert style.read_module("a.py", text).fields == ["a.py: Rest.left"]


def test_style_test_names_fit_length_limit() -> None:
    assert [(place, name) for place, name in style.tests() if len(name) > style.MOST_TEST_NAME] == []


def test_style_surfaces_each_have_text() -> None:
    assert {name for name, texts in style.SURFACES.items() if not any(text.strip() for _, text in texts())} == set()


def test_style_avoided_words_are_counted_in_any_case_and_position() -> None:
    assert style.avoided(iter([("a", "Whose is it? It goes\non. WHOSE."), ("b", "whosever")])) == {"whose": 2}


@cases(
    ("message", "count"),
    [
        ("seal: count a late sample once\n\nIt was counted twice.\n", 0),
        ("Merge branch 'x'\n", 0),
        ("seal: count a late sample once.\n", 1),
        ("Count a late sample once\n", 1),
        (f"seal: {'x' * 70}\n", 1),
        ("seal: count a late sample once\nIt was counted twice.\n", 1),
        ("", 1),
    ],
)
def test_style_commit_message_with_fault_is_refused(
    message: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "message"
    file.write_text(message)
    assert len(style.faults(message)) == count
    assert style.main(["--message", str(file)]) == int(count > 0)
    assert ("commit message refused" in capsys.readouterr().out) == (count > 0)
