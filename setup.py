"""The distribution `fasttail`: ranges here, the tested versions in constraints.txt."""

from pathlib import Path

from setuptools import setup

setup(
    name="fasttail",
    version="0.1.0",
    description="Long-tailed image recognition at full GPU speed: FFCV files, DALI decoding, GLMC training",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=[
        "pipelines",
        *(f"pipelines.{part}" for part in ("beton", "conversion", "draws", "jpeg", "resident", "sources")),
        *("training", "benchmarks", "tools"),
    ],
    install_requires=[
        "ffcv>=1.0.2",
        "jsonargparse[signatures]>=4.40",
        "matplotlib>=3.9",
        "numba>=0.61",
        "numpy>=2.0",
        "nvidia-dali-cuda120>=1.50",
        "opencv-python>=4.8",
        "pillow>=11",
        "scikit-learn>=1.5",  # the embedded digits
        "scipy>=1.13",
        "setuptools>=77",  # FFCV imports distutils, which Python 3.12 dropped
        "tensorboard>=2.18",
        "torch>=2.6",
        "torchvision>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        "dev": [
            *("hypothesis", "mypy", "pre-commit", "pytest", "ruff", "types-PyYAML", "types-tqdm"),
            "safetensors",  # reads back what training/saved_outputs.py writes
        ],
    },
    entry_points={
        "console_scripts": [
            "fasttail-bench=tools.benchmark:main",
            "fasttail-convert=tools.convert_datasets:main",
            "fasttail-doctor=tools.doctor:main",
            "fasttail-evaluate=training.evaluate:main",
            "fasttail-grid=tools.grid:main",
            "fasttail-train=training.train:main",
        ]
    },
)
