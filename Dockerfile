# One image for every role: `up` (the default), `serve`, `run`, `worker`, `watch`, `tick` and `nightly` by way of drawdown-job, `init`.
# It needs a network only while it is built; at run time it talks to the database, the providers and the cells.
# An index of images: amd64 and arm64. `docker buildx imagetools inspect python:3.12.11-slim-bookworm` prints its digest.
FROM python:3.12.11-slim-bookworm@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7 AS build
WORKDIR /src
# By hash alone: what the image runs, and what builds the wheel. `make lock` says them anew.
COPY ops/deploy/requirements.lock ops/deploy/build.lock ./
RUN python -m venv /opt/drawdown \
    && /opt/drawdown/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: -r requirements.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: -r build.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY schema schema
COPY events events
COPY ledger ledger
COPY guard guard
COPY providers providers
COPY worker worker
COPY server server
COPY cli cli
COPY drawdown drawdown
COPY ops/runbooks ops/runbooks
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /opt/drawdown/bin/pip install --no-index --no-deps --no-compile /wheel/drawdown-*.whl

FROM python:3.12.11-slim-bookworm@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7
RUN groupadd --gid 10001 drawdown && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin drawdown \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/drawdown
COPY --from=build /opt/drawdown /opt/drawdown
COPY --chmod=0755 ops/deploy/drawdown-job /usr/local/bin/drawdown-job
ENV PATH=/opt/drawdown/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DRAWDOWN_STATE_DIR=/var/lib/drawdown
# What a host remembers of the database: it outlives the container, and no backup of the database brings it back.
VOLUME /var/lib/drawdown
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# For `up` and `serve`. Kubernetes has probes of its own; other roles are started with --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["drawdown"]
CMD ["up", "--host", "0.0.0.0", "--port", "8080"]
