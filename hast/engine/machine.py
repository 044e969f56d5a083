"""What a result was computed with: hardware, library versions, the commit of the project."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__version__ = "0.1.0"  # of hast
LIBRARIES = ("torch", "torchvision", "zarr", "safetensors", "pydantic", "dvc", "numpy")


def device_name(device: torch.device) -> str:
    """Model of a GPU, or of the CPU with the matrix and vector units that matter here."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    units = [n for n in ("amx_bf16", "avx512_bf16", "avx512_f") if capabilities.get(n)]
    extras = f" ({', '.join(units)})" if units else ""
    return f"{_cpu_model()}{extras}"


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def library_versions() -> dict[str, str]:
    """Installed versions of what results depend on."""
    found = {name: installed_version(name) for name in LIBRARIES}
    return {name: text for name, text in found.items() if text}


def git(*arguments: str, folder: Path) -> str | None:
    """What a Git command prints, or None where it fails or there is no Git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def changed_files(folder: Path) -> list[str]:
    """Tracked files that differ from the commit, as Git prints them."""
    return (git("status", "--porcelain", "--untracked-files=no", folder=folder) or "").splitlines()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
