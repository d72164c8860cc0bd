"""`python -m vedsess_middleware.console` is `vedsess`."""

from vedsess_middleware.console import main

if __name__ == "__main__":
    main()
