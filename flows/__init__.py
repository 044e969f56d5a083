"""Prefect flows: order, retries and logs. What has to be rebuilt is DVC's decision."""
