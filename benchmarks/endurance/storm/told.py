"""`python -m benchmarks.endurance.storm.told FILE ...`: the table of several storms together, from their storm.json."""

import json
import sys
from pathlib import Path

from benchmarks.endurance.storm.storm import Strike
from benchmarks.endurance.storm.table import table


def main() -> None:
    """Prints the table, and each line of a verdict that says no."""
    strikes = list[Strike]()
    for name in sys.argv[1:]:
        document = json.loads(Path(name).read_text(encoding="utf-8"))
        strikes += [Strike(**each) for each in document["strikes"]]
        no = [each for each in document["verdict"] if not each["holds"]]
        sys.stdout.write(f"{name}: commit {document['commit']}, seed {document['seed']}, {len(no)} lines say no\n")
        sys.stdout.writelines(f"  {each['says']}: {each['evidence']}\n" for each in no)
    sys.stdout.write(table(strikes))


if __name__ == "__main__":
    main()
