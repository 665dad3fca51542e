"""The 94 published models: what they are (specs), how they compute (network), where their weights are (weights)."""
