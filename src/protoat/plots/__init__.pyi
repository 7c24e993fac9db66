# What type checkers and editors see of the names that load on first use.

from protoat.plots.curves import training_curves as training_curves
from protoat.plots.gallery import attacked_images as attacked_images
from protoat.plots.map import embedding_map as embedding_map
from protoat.plots.modes import accuracy_of_modes as accuracy_of_modes
from protoat.plots.prototypes import nearest_images as nearest_images
from protoat.plots.prototypes import prototype_counts as prototype_counts
from protoat.plots.prototypes import prototype_usage as prototype_usage
from protoat.plots.prototypes import usage_over_time as usage_over_time
from protoat.plots.retrieval import retrieved_images as retrieved_images
from protoat.plots.sweeps import accuracy_against_eps as accuracy_against_eps
from protoat.plots.sweeps import accuracy_against_steps as accuracy_against_steps
from protoat.plots.transitions import agreement_map as agreement_map
from protoat.plots.transitions import transition_map as transition_map
