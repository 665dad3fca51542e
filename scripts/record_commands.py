"""Run the README's commands for real in the demo's workspace and keep what they print.

Writes docs/measurements/four_commands.json, from which ``make docs`` fills the README. Needs ``make demo`` first.

Run: python scripts/record_commands.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from ffnet_deploy.artifacts.writing import write_json
from ffnet_deploy.machine.environment import describe_environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "measurements" / "four_commands.json"
PROGRESS = re.compile(r"^.+, \d+ s\n", re.MULTILINE)
"""As ``commands/output.py`` writes them where there is no terminal."""
COMMANDS = (
    "ffnet-deploy export segmentation_ffnet46NS_CCC_mobile --weights weights/ffnet46NS_CCC_demo.pth",
    "ffnet-deploy build --fp16",
    "ffnet-deploy bench --iters 200",
    "ffnet-deploy eval cityscapes --root cityscapes",
    "ffnet-deploy export segmentation_ffnet46NS_CCC_mobile_pre_down --height 512 --width 1024",
)


def main() -> None:
    """Run each command in demo/ and keep its exit code and output."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    program = str(Path(sys.executable).with_name("ffnet-deploy"))
    results = []
    for command in COMMANDS:
        arguments = [program, *command.split()[1:]]
        done = subprocess.run(arguments, cwd=ROOT / "demo", capture_output=True, text=True, check=False)
        # Lines of progress say how long this run took, and nothing to a reader.
        told = PROGRESS.sub("", done.stderr)
        results.append({"command": command, "exit_code": done.returncode, "stderr": told, "stdout": done.stdout})
        print(f"$ {command}\n{told}{done.stdout}", flush=True)
    write_json(RESULTS, {"environment": describe_environment().to_json(), "commands": results})


if __name__ == "__main__":
    main()
