"""The examples below each command's help, by its words. Those of "" stand below the program's own.

Guarantee: a test parses each, and asks for one of each command there is.
"""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "": ("demo", "init", "import samples.csv", "tick", "status", "org assign --help"),
    "demo": ("demo",),
    "init": (
        "init",
        "init --database-url postgresql://drawdown@db.internal/billing",
        "init --roles",
        "init --roles --apply",
    ),
    "doctor": ("doctor", "doctor --json"),
    "import": (
        "import samples.csv",
        "import june.jsonl.gz --strict",
        "import usage.csv --map org_id=tenant --set interval_s=60 --time-format s --id-from-line",
    ),
    "tick": (
        "tick --deadline 240 --quiet",
        "tick --shard 0/4",
        "tick --at 2024-12-09T00:10",
    ),
    "run": ("run", "run --deadline 120", "run --every 60 --new-org-provider embedded --new-org-from yesterday"),
    "watch": ("watch", "watch --once"),
    "serve": ("serve", "serve --host 0.0.0.0 --port 8080"),
    "status": ("status", "status acme", "status --json"),
    "verify": ("verify", "verify --org acme"),
    "reconcile": (
        "reconcile",
        "reconcile --correct --reason nightly",
        "reconcile acme --provider stripe --from 2026-01-01 --to today",
    ),
    "replay": (
        "replay acme --from 2d --to 1d --dry-run",
        "replay --all --from 2026-01-01 --to 2026-01-02 --zone Europe/Berlin --dry-run",
    ),
    "recover": ("recover --dry-run", "recover --since 2026-01-31T02:00 --reason 'restored from the nightly backup'"),
    "usage": (
        "usage acme --from 2026-01-01 --to 2026-02-01",
        "usage acme --from 30d --by day --csv",
        "usage acme --from today --by sandbox --json",
    ),
    "org list": ("org list", "org list --halted --sort balance", "org list --search test-", "org list --scheduled"),
    "org show": ("org show acme",),
    "org assign": (
        "org assign --unassigned --from yesterday",
        "org assign acme --provider stripe --customer cus_1 --dry-run",
        "org assign --file flips.csv --provider autumn --from 2026-02-01 --reason 'moves to Autumn'",
        "org assign acme --undo --reason 'not yet'",
        "org assign acme --customer acme-inc --new",
    ),
    "org override": (
        "org override acme --max-concurrent 50 --until +3d --reason 'load test'",
        "org override acme --undo --reason done",
    ),
    "org halt": (
        "org halt acme --reason abuse",
        "org halt acme --undo --reason settled",
        "org halt --plan free --search test- --dry-run",
    ),
    "org release": ("org release acme --reason 'the host is mended'",),
    "feature list": ("feature list",),
    "feature map": (
        "feature map compute_rest --rest --unit mb_s --new --dry-run",
        "feature map compute_2gb --memory-mb 2048 --from 2026-02-01 --new",
    ),
    "feature end": ("feature end compute_2gb --from 2026-03-01",),
    "sample list": (
        "sample list --quarantined",
        "sample list --quarantined --org acme --why ts_before_2000 --json",
        "sample list --org acme --from 2h",
    ),
    "sample mend": (
        "sample mend --org acme --dry-run",
        "sample mend --why ts_before_2000 --as s --expect 120 --reason 'the host wrote seconds'",
    ),
    "sample dismiss": ("sample dismiss a-7 --reason 'a test'", "sample dismiss a-7 --undo --reason 'it was none'"),
    "sample withdraw": ("sample withdraw a-2 --reason 'counted twice by the host'",),
    "sample prune": ("sample prune --before 52w --dry-run", "sample prune --before 2025-01-01"),
    "push list": ("push list", "push list --state rejected --provider stripe"),
    "push show": ("push show usage:acme:1767225600000:compute_4gb",),
    "push retry": (
        "push retry usage:acme:1767225600000:compute_4gb --reason 'customer made'",
        "push retry --provider stripe --error 'No such customer' --dry-run",
    ),
    "push resolve": (
        "push resolve usage:acme:1767225600000:compute_4gb --accepted --evidence 'their event list'",
        "push resolve usage:acme:1767225600000:compute_4gb --absent --evidence 'their support, ticket 7'",
    ),
    "push void": ("push void usage:acme:1767225600000:compute_4gb --evidence 'their support, ticket 7'",),
    "provider list": ("provider list",),
    "provider check": ("provider check embedded", "provider check stripe --customer cus_1"),
    "provider pause": ("provider pause stripe --reason 'their incident 42'", "provider pause stripe --undo"),
    "provider resume": ("provider resume stripe --reason over",),
    "provider accept": ("provider accept stripe --dry-run", "provider accept stripe --reason 'new meters'"),
    "provider webhook": ("provider webhook stripe body.json --header 'Stripe-Signature: t=1,v1=ab'",),
    "provider rate": ("provider rate autumn compute_4gb --micro 1000000",),
    "provider when-down": (
        "provider when-down autumn --policy go_on",
        "provider when-down embedded --plan free --policy stop --new --reason abuse",
        "provider when-down embedded --plan free --undo",
    ),
    "ledger grant": (
        "ledger grant acme 12.50 --key invoice-7 --reason 'first invoice'",
        "ledger grant acme 5 --plan team",
        "ledger grant acme 20 --kind included --expires 2026-03-01 --priority 10 --key included-2026-02",
        "ledger grant acme 5 --kind bonus --feature compute_4gb --begins tomorrow --expires +30d",
        "ledger grant acme -- -5",
    ),
    "ledger show": ("ledger show", "ledger show acme --most 50"),
    "ledger lots": ("ledger lots acme", "ledger lots acme --json"),
    "ledger take-back": (
        "ledger take-back invoice-7 --reason 'the invoice was not paid'",
        "ledger take-back invoice-7 --whole --reason 'the card was stolen'",
    ),
    "ledger statement": (
        "ledger statement acme --month 2026-02",
        "ledger statement acme --month 2026-02 --csv",
        "ledger statement acme --from 2026-02-01 --to 2026-02-15 --most 500 --json",
    ),
    "ledger rate": ("ledger rate compute_4gb --micro-credits 400 --from tomorrow",),
    "ledger plan": (
        "ledger plan team --max-concurrent 20 --new",
        "ledger plan team --max-concurrent 30 --hold-factor 1.5 --most-hold 50 --most-held 500",
    ),
    "ledger plans": ("ledger plans",),
    "topup set": (
        "topup set acme --below 5 --amount 20 --price 100 --currency usd --customer cus_1 --most 10000",
        "topup set acme --below 5 --up-to 50 --price 100 --currency eur --customer cus_1 --most 20000 --shadow",
    ),
    "topup list": ("topup list", "topup list --state in_doubt", "topup list --wallet acme --json"),
    "topup show": ("topup show acme", "topup show topup:acme:1"),
    "topup arm": ("topup arm acme --reason 'a new card'",),
    "topup stop": ("topup stop acme --reason 'asked for it'", "topup stop --all --reason 'their incident 7'"),
    "topup start": ("topup start acme", "topup start acme --shadow", "topup start --all --reason over"),
    "topup resolve": (
        "topup resolve topup:acme:1 --paid pi_1 --evidence 'their dashboard'",
        "topup resolve topup:acme:1 --absent --evidence 'their support, ticket 7'",
    ),
    "topup card": ("topup card acme --return-to https://console.example.com/billing",),
    "topup portal": ("topup portal acme --return-to https://console.example.com/billing",),
    "execution preview": ("execution preview --org acme --estimate 6",),
    "execution accept": (
        "execution accept e-1 --org acme --estimate 6 --project site",
        "execution accept e-2 --org acme --use tokens_in=200000 --use tokens_out=8000 --overage cap --for 20m",
        "execution accept e-3 --org acme --estimate 6 --supplier pixel",
    ),
    "execution draw": ("execution draw e-1 1 --credits 2.50", "execution draw e-2 1 --use tokens_in=40000"),
    "execution extend": ("execution extend e-1", "execution extend e-1 --to 9 --for 2h"),
    "execution settle": ("execution settle e-1 --actual 4",),
    "execution release": (
        "execution release e-2 --reason 'the build was cancelled'",
        "execution release e-2 --incurred 1.20 --reason 'cancelled half way'",
    ),
    "execution block": (
        "execution block --org acme --project site --reason 'the owner asked'",
        "execution block --org acme --action render --undo",
    ),
    "execution list": ("execution list --org acme --state held", "execution list --project site --json"),
    "execution show": ("execution show e-1",),
    "supplier set": (
        "supplier set pixel --share 70 --new --reason 'contract 12'",
        "supplier set pixel --hold 7d --threshold 50 --clawbacks",
    ),
    "supplier freeze": ("supplier freeze pixel --reason 'a dispute'", "supplier freeze pixel --undo --reason settled"),
    "supplier list": ("supplier list", "supplier list --json"),
    "settlement list": ("settlement list --supplier pixel --state eligible", "settlement list --org acme --json"),
    "settlement show": ("settlement show e-1",),
    "settlement freeze": ("settlement freeze e-1 --reason 'ticket 7'", "settlement freeze e-1 --undo --reason settled"),
    "settlement reverse": (
        "settlement reverse e-1 --reason 'the render was black'",
        "settlement reverse e-1 --amount 1.50 --key ticket-7 --reason 'half of it was usable'",
    ),
    "settlement batch": (
        "settlement batch pixel --period 2026-02 --dry-run",
        "settlement batch pixel --period 2026-02 --expect 140.50 --reason 'month end'",
    ),
    "settlement batches": ("settlement batches --supplier pixel",),
    "settlement export": ("settlement export payout:pixel:2026-02 --json",),
    "key create": (
        "key create app --scope events:write --scope usage:read --scope guard",
        "key create builds --scope executions:write --scope executions:read --org acme --for 90d --quiet",
    ),
    "key rotate": ("key rotate app --overlap 2h --reason 'once a quarter'", "key rotate app --quiet"),
    "key end": ("key end app --reason 'it was in a log'",),
    "key list": ("key list",),
    "cell list": ("cell list",),
    "cell set": ("cell set cell-1 https://cell-1.internal:8443 --new --reason 'new host'",),
    "cell secret": ("cell secret cell-1", "cell secret cell-9 --new"),
    "cell remove": ("cell remove cell-1 --reason 'the host is gone'",),
    "audit list": ("audit list", "audit list --target acme", "audit list --actor alice --from 7d --json"),
}
