"""Results as text: what tables, cards and summaries look like."""
