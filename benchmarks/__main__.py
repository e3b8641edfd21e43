"""`python -m benchmarks`: print the tables."""

from benchmarks import _eager
from benchmarks._timing import medians, table

if __name__ == "__main__":
    for title, contenders in {
        "16 float32, forward and backward": _eager.forward_backward(16),
        "16 float32, forward": _eager.forward(16),
    }.items():
        print(table(title, medians(contenders), floor="floor"))
