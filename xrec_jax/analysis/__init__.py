"""Questions to explanations and verdicts that exist: what makes one better, and for whom."""
