"""Tenants: who owns jobs and files. What one owns does not exist for another."""
