from .newfile import Copied as Copied
