from .datafiles import check_files as check_files, local_files as local_files
from .opening import dataset_rows as dataset_rows
