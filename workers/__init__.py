"""The workers: thin Celery tasks, the supervisor of one attempt, the sweeper. They never touch a model."""
