"""``python -m ssmlab.bench``."""

from ssmlab.bench import main

if __name__ == "__main__":
    main()
