"""The tools for a plug-in, in addition to `drawdown.providers.protocol`.

Guarantee: this package, `protocol` and `conformance` do not import the worker, the server or a database driver. Only
functions of `clients` use httpx or httpx2.

    answers    the proof in a response: JSON, a bearer key, Retry-After, the outcomes that every service shares
    clients    httpx and httpx2: a client on Drawdown's engine, and Drawdown's `Http` over your own client
    rest       a JSON API under one key: reads that are cached for a minute, refusals in the service's own words
    settings   DRAWDOWN_<NAME>_… as a provider reads them
    webhooks   the signatures of "standard webhooks", which Svix and many services use
    emulator   the base of an emulator of your service: no I/O, a clock that you pass in, seeded faults
"""
