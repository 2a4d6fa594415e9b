"""The demo, and the synthetic data that it and the tests use."""
