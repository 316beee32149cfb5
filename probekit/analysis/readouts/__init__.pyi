from .applying import apply_readout as apply_readout
from .fitting import fit_readout as fit_readout
from .result import Applied as Applied, LayerReadout as LayerReadout, Readout as Readout
from .saving import load_readout as load_readout, save_readout as save_readout
