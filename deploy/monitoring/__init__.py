"""What writes the Grafana dashboard and the operator's form of the alerts: `make monitoring`. No part of the product.

`table` says what each panel shows, `queries` how a series of the catalogue is asked for, `dashboard` and `rules` write.
"""
