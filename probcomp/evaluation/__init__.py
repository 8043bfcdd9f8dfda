"""Measurements: accuracy with intervals, latency, sizes, regularity of masks."""

from probcomp.evaluation.accuracy import Reliability as Reliability
from probcomp.evaluation.accuracy import compare_accuracy as compare_accuracy
from probcomp.evaluation.accuracy import compare_nll as compare_nll
from probcomp.evaluation.accuracy import estimate_accuracy as estimate_accuracy
from probcomp.evaluation.accuracy import mean_interval as mean_interval
from probcomp.evaluation.accuracy import paired_difference as paired_difference
from probcomp.evaluation.accuracy import reliability as reliability
from probcomp.evaluation.estimate import Comparison as Comparison
from probcomp.evaluation.estimate import Estimate as Estimate
from probcomp.evaluation.latency import Latency as Latency
from probcomp.evaluation.latency import measure_latency as measure_latency
from probcomp.evaluation.predict import Predictions as Predictions
from probcomp.evaluation.predict import predict as predict
from probcomp.evaluation.regularity import LayerRegularity as LayerRegularity
from probcomp.evaluation.regularity import Regularity as Regularity
from probcomp.evaluation.regularity import compare_with_magnitude as compare_with_magnitude
from probcomp.evaluation.regularity import magnitude_mask as magnitude_mask
from probcomp.evaluation.regularity import measure_regularity as measure_regularity
from probcomp.evaluation.sizes import LayerSize as LayerSize
from probcomp.evaluation.sizes import Size as Size
from probcomp.evaluation.sizes import layer_sizes as layer_sizes
from probcomp.evaluation.sizes import size_of as size_of
