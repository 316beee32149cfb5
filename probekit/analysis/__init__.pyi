from .ckamatrix import CKAMatrix as CKAMatrix
from .comparing import compare as compare
from .comparisonresult import MEASURES as MEASURES, Comparison as Comparison
from .expertload import (
    ExpertLoad as ExpertLoad,
    ExpertLoads as ExpertLoads,
    expert_load as expert_load,
    holds_choices as holds_choices,
)
from .headscores import HeadScores as HeadScores, head_scores as head_scores
from .logitlens import (
    Lens as Lens,
    LensExample as LensExample,
    lens as lens,
    what_lens_lacks as what_lens_lacks,
)
from .moments import (
    merged as merged,
    moments_of as moments_of,
    no_moments as no_moments,
    pooled as pooled,
)
from .neurons import (
    Neuron as Neuron,
    TopExamples as TopExamples,
    column_of as column_of,
    top_examples as top_examples,
    top_rows as top_rows,
)
from .predictions import (
    NextTokens as NextTokens,
    log_softmax as log_softmax,
    next_ids as next_ids,
    next_tokens as next_tokens,
)
from .readouts import (
    Applied as Applied,
    Readout as Readout,
    apply_readout as apply_readout,
    fit_readout as fit_readout,
    load_readout as load_readout,
    save_readout as save_readout,
)
from .sitestats import SiteStatistics as SiteStatistics, site_statistics as site_statistics
from .tracestats import TraceStatistics as TraceStatistics, trace_statistics as trace_statistics
