# Finds hiredis and makes hiredis::hiredis, even if a distribution ships only the header and the library (Debian 12).
# Upstream's own package configuration is preferred if there is one.
find_package(hiredis CONFIG QUIET)
if(NOT TARGET hiredis::hiredis)
  find_path(hiredis_INCLUDE_DIR hiredis/hiredis.h)
  find_library(hiredis_LIBRARY hiredis)
  include(FindPackageHandleStandardArgs)
  find_package_handle_standard_args(hiredis REQUIRED_VARS hiredis_LIBRARY hiredis_INCLUDE_DIR)
  if(hiredis_FOUND)
    add_library(hiredis::hiredis UNKNOWN IMPORTED)
    set_target_properties(hiredis::hiredis PROPERTIES IMPORTED_LOCATION "${hiredis_LIBRARY}"
                          INTERFACE_INCLUDE_DIRECTORIES "${hiredis_INCLUDE_DIR}")
  endif()
  mark_as_advanced(hiredis_INCLUDE_DIR hiredis_LIBRARY)
endif()
