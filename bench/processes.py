"Samples with their exact conditionals: the hierarchy's filters against one product with a dense Cholesky factor."

import time

import torch

from l2m.hierarchies import SubvolumeGaussian

COPIES, TOKENS = 64, 16384


def seconds(work, repeats=5):
    "Shortest of a few runs after one to warm up"
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main():
    print(f"{COPIES} copies a token, float32, {torch.get_num_threads()} thread(s): microseconds a token")
    print(f"{'length':>7s} {'sample':>9s} {'+ conditionals':>15s} {'dense product':>14s} {'ratio':>7s}")
    for layers in range(3, 8):
        process = SubvolumeGaussian(layers, COPIES)
        n, length = max(1, TOKENS // process.length), process.length
        generator = torch.Generator().manual_seed(0)
        both = lambda: process.conditionals(process.sample(n, length, generator))
        drawn, whole = seconds(lambda: process.sample(n, length, generator)), seconds(both)
        if length <= 4096:  # the factor of 16,384 takes 2 GB and minutes
            i = torch.arange(length)
            matrix = torch.stack([process.covariance(i, i.roll(-k)) for k in range(length)], 1)
            factor = torch.linalg.cholesky(matrix[i[:, None], (i - i[:, None]) % length]).float()
            dense = seconds(lambda: factor @ torch.randn(n, length, COPIES, generator=generator))
        else:
            dense = float("nan")
        scale = 1e6 / (n * length)
        print(f"{length:7d} {drawn * scale:9.2f} {whole * scale:15.2f} {dense * scale:14.2f} {dense / whole:7.2f}")


if __name__ == "__main__":
    main()
