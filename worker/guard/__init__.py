"""The guard: may so much of a metric be used now? Its questions, counters, terms, overrides and pages."""
