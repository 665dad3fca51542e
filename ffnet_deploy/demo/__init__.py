"""The demo: small models, really trained on synthetic data, taken through every stage."""
