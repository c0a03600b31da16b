"""``python -m sift_graph`` is ``sift-graph``."""

from sift_graph.cli import main

if __name__ == "__main__":
    main()
