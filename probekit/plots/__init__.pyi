from .readoutplots import plot_readout as plot_readout
from .resultplots import (
    plot_comparison as plot_comparison,
    plot_head_scores as plot_head_scores,
    plot_lens as plot_lens,
    plot_lens_example as plot_lens_example,
    plot_matrix as plot_matrix,
    plot_norms as plot_norms,
)
from .siteplots import plot_site as plot_site, plot_site_statistics as plot_site_statistics
