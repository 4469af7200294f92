"""Seconds and peak memory of attacking a slice, by its size: what an evaluation will take.

    python scripts/slice_cost.py -d 91 -tr nnUNetTrainerPlain --sizes 256,320 --steps 10

Random slices through the network of a trained 2D model, which takes any size that its strides divide; in the precision
that nnunet-ima-eval uses. Memory is that of the whole process (CPU) or what torch held (CUDA).
"""

import argparse
import resource
import subprocess
import sys
from time import perf_counter

import torch

from nnunet_ima.cli.common import device_name, nnunet_folder, positive
from nnunet_ima.evaluation.noises import Settings, Target, attack
from nnunet_ima.nnunet.dataset_names import dataset_name
from nnunet_ima.segmentation.cases.models import find_models, load_predictor


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set")
    parser.add_argument("-tr", required=True, help="trainer")
    parser.add_argument("-p", help="plans")
    parser.add_argument("-device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", default="320", help="height and width of the slices; default: 320")
    parser.add_argument("--batch-size", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=10, help="of PGD; the time of 100 is ten times as long")
    return parser.parse_args()


def measure(args: argparse.Namespace, size: int) -> tuple[float, float]:
    """Seconds per slice and step, and peak memory in GiB."""
    model = find_models(nnunet_folder("nnUNet_results"), dataset_name(args.d), "2d", None, [args.tr], args.p)[0]
    predictor = load_predictor(model, torch.device(args.device))
    channels = len(predictor.dataset_json["channel_names"])
    x = torch.randn(args.batch_size, channels, size, size, device=args.device)
    # Right on every slice: an attack leaves alone what is lost already.
    with torch.no_grad():
        y = predictor.network(x).argmax(1, keepdim=True)
    target, noise = Target(predictor.network, predictor.label_manager), attack("cospgd", Settings(steps=args.steps))
    names = [str(number) for number in range(len(x))]
    noise(target, x, y, 1.0, names)
    started = perf_counter()
    noise(target, x, y, 1.0, names)
    if args.device == "cuda":
        torch.cuda.synchronize()
    seconds = (perf_counter() - started) / (args.batch_size * args.steps)
    if args.device == "cuda":
        return seconds, torch.cuda.max_memory_allocated() / 2**30
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    args = parse()
    device_name(args.device)
    sizes = [int(size) for size in args.sizes.split(",")]
    if len(sizes) > 1:
        # A process of its own for each size, for its peak is that of its whole life.
        print("size, batch, seconds per slice and step, seconds of 100 steps, peak GiB", flush=True)
        for size in sizes:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--sizes", str(size)], check=True)
        return
    seconds, memory = measure(args, sizes[0])
    print(f"{sizes[0]} x {sizes[0]}, {args.batch_size}, {seconds:.3f}, {100 * seconds:.1f}, {memory:.2f}")


if __name__ == "__main__":
    main()
