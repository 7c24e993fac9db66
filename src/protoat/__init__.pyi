# What type checkers and editors see of the names that load on first use.

from protoat import attacks as attacks
from protoat import data as data
from protoat import evaluation as evaluation
from protoat import functional as functional
from protoat import methods as methods
from protoat import models as models
from protoat import modes as modes
from protoat import plots as plots
from protoat import pretraining as pretraining
from protoat import regularizers as regularizers
from protoat import training as training
from protoat import weighting as weighting
from protoat._version import __version__ as __version__
from protoat.attacks import *
from protoat.data import *
from protoat.errors import UserError as UserError
from protoat.estimator import RobustClassifier as RobustClassifier
from protoat.evaluation import *
from protoat.methods import *
from protoat.models import *
from protoat.modes import *
from protoat.objective import Objective as Objective
from protoat.pretraining import *
from protoat.regularizers import *
from protoat.runs.run import Run as Run
from protoat.sharing import Agreement as Agreement
from protoat.sharing import Exported as Exported
from protoat.sharing import export as export
from protoat.threats import L1 as L1
from protoat.threats import L2 as L2
from protoat.threats import Linf as Linf
from protoat.threats import ThreatModel as ThreatModel
from protoat.training import *
from protoat.types import Forwards as Forwards
from protoat.types import Output as Output
from protoat.weighting import *
