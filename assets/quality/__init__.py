"""Quality of the bars: the kernel's rules as Great Expectations suites, asset checks, and verdicts in the ledger."""
