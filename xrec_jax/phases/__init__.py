"""The five verbs: fit, tune, align, explain, judge."""
