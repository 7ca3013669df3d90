"""Retraining and measuring: everything that runs a network. The only package that needs torch."""
