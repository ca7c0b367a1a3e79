"""Write golden/ anew: python -m tests.spice.regenerate. Look at the difference before you commit it."""

from pathlib import Path

from tests.spice.circuits import circuits

if __name__ == "__main__":
    for name, circuit in circuits().items():
        (Path(__file__).parent / "golden" / f"{name}.cir").write_text(circuit.text, encoding="utf-8")
