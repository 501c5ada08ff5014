"""Helpers for tests of chips and queues; shipped, imported only by tests."""
