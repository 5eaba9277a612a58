"""The Celery worker for tests: sources that are edited meanwhile do not end it."""

from resources.run_host import celery_worker

if __name__ == "__main__":
    celery_worker.source_state = lambda: (0, 0)
    celery_worker.main()
