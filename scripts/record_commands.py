"""Run the README's commands for real in the demo's workspace and keep what they print.

Writes docs/measurements/four_commands.json, from which ``make docs`` fills the README. Needs ``make demo`` first.

Run: python scripts/record_commands.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ffnet_deploy.artifacts import write_json
from ffnet_deploy.pipeline import environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "four_commands.json"
COMMANDS = (
    "ffnet-deploy export segmentation_ffnet46NS_CCC_mobile --weights weights/ffnet46NS_CCC_demo.pth",
    "ffnet-deploy build --fp16",
    "ffnet-deploy bench --iters 200",
    "ffnet-deploy eval cityscapes --root cityscapes",
    "ffnet-deploy export segmentation_ffnet46NS_CCC_mobile_pre_down --height 512 --width 1024",
)


def main() -> None:
    """Run each command in demo/ and keep its exit code and output."""
    program = str(Path(sys.executable).with_name("ffnet-deploy"))
    results = []
    for command in COMMANDS:
        arguments = [program, *command.split()[1:]]
        done = subprocess.run(arguments, cwd=ROOT / "demo", capture_output=True, text=True, check=False)
        results.append({"command": command, "exit_code": done.returncode, "stderr": done.stderr, "stdout": done.stdout})
        print(f"$ {command}\n{done.stderr}{done.stdout}", flush=True)
    write_json(RESULTS, {"environment": environment(), "commands": results})


if __name__ == "__main__":
    main()
