"""Models trained to have a known circuit, without sparse weights (SIIT, Gupta et al. 2024, arXiv 2407.14494).

``python -m workbench.circuits.known.siit`` trains them again.
"""

from workbench.circuits.known.siit.measure import figures
from workbench.circuits.known.siit.pair import Pair
from workbench.circuits.known.siit.records import RECORDS, TrainedRecord
from workbench.circuits.known.siit.trained import TRAINED, Trained, bundled

__all__ = ["RECORDS", "TRAINED", "Pair", "Trained", "TrainedRecord", "bundled", "figures"]
