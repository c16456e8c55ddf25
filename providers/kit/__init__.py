"""The kit for authors of providers: what a plug-in needs beside `drawdown.providers.protocol`.

Guarantee: nothing here, in `protocol` or in `conformance` imports the worker, the server or a database driver. httpx
and httpx2 are imported only by the functions that you hand one of them.

    answers    what an answer proves: JSON, a bearer key, Retry-After, the outcomes that every service shares
    clients    httpx and httpx2: a client on Drawdown's engine, and Drawdown's `Http` over a client of your own
    rest       a JSON API under one key: reads that are kept for a minute, refusals in the service's own words
    settings   DRAWDOWN_<NAME>_… as a provider reads them
    webhooks   the signatures of "standard webhooks", which Svix and many services use
    emulator   the base of an emulator of your service: no I/O, a clock that is passed in, seeded faults
"""
