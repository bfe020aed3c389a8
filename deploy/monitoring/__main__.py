"""`python -m deploy.monitoring`: writes what is generated, see `WRITTEN`."""

from deploy.monitoring.written import WRITTEN

if __name__ == "__main__":
    for path, text in WRITTEN.items():
        path.write_text(text(), encoding="utf-8")
