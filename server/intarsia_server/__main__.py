"""`python -m intarsia_server`."""

if __name__ == "__main__":
    # Imported here because a spawned worker process imports this file and needs nothing of the front.
    import sys

    from intarsia_server.app import main

    sys.exit(main())
