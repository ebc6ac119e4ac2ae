"""Is AutoAttack weaker with queries in half precision? ``python benchmarks/autoattack_precision.py --data DATASET``

Attacks networks that come with the course twice, with queries in float32 and in the fastest precision of this machine.
Both times the float32 network decides which images are lost. Prints the survivors of each, the images on which the two
disagree, and the seconds as a ratio.
"""

import argparse

import torch

from anchor_utils import evaluation, results
from anchor_utils.data import load_dataset
from anchor_utils.models import fold_batchnorm, pretrained, resolve_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="cifar10", help="cifar10 or imagefolder:PATH")
    parser.add_argument("--methods", nargs="+", default=["pgd_at", "anchor"])
    parser.add_argument("--attack", default="autoattack", choices=["screen", "autoattack"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=0.031)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    test = load_dataset(options.data).test[: options.images]
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; {options.attack}, "
        f"L-infinity epsilon {options.epsilon}, the first {options.images} test images, attack seed 0; "
        f"half precision is {resolve_precision('auto', device)}"
    )
    for method in options.methods:
        network = fold_batchnorm(pretrained(method)).to(device)
        rows = {
            precision: evaluation.evaluate(
                network, test, [options.attack], epsilon=options.epsilon, step_size=0.01, precision=precision
            ).iloc[-1]
            for precision in ("float32", "auto")
        }
        bits = {name: results.unpack_outcomes(row["outcomes"], row["images"]) for name, row in rows.items()}
        only = {
            "float32": int((bits["float32"] & ~bits["auto"]).sum()),
            "auto": int((bits["auto"] & ~bits["float32"]).sum()),
        }
        print(
            f"{method}: survive float32 {bits['float32'].sum()}, half {bits['auto'].sum()} of {options.images}; "
            f"only under float32 {only['float32']}, only under half {only['auto']}; "
            f"seconds {rows['float32']['seconds']:.0f} and {rows['auto']['seconds']:.0f}, "
            f"ratio {rows['float32']['seconds'] / rows['auto']['seconds']:.2f}"
        )


if __name__ == "__main__":
    main()
