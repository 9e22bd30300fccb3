# Finds protozero, which is header-only and has no package configuration (Debian 12), and makes protozero::protozero.
# Upstream's own configuration is preferred if there is one.
find_package(protozero CONFIG QUIET)
if(NOT TARGET protozero::protozero)
  find_path(protozero_INCLUDE_DIR protozero/pbf_writer.hpp)
  if(protozero_INCLUDE_DIR)
    file(STRINGS ${protozero_INCLUDE_DIR}/protozero/version.hpp protozero_version_line
         REGEX "PROTOZERO_VERSION_STRING")
    string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" protozero_VERSION "${protozero_version_line}")
  endif()
  include(FindPackageHandleStandardArgs)
  find_package_handle_standard_args(protozero REQUIRED_VARS protozero_INCLUDE_DIR
                                    VERSION_VAR protozero_VERSION)
  if(protozero_FOUND)
    add_library(protozero::protozero INTERFACE IMPORTED)
    set_target_properties(protozero::protozero PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
                                                          "${protozero_INCLUDE_DIR}")
  endif()
  mark_as_advanced(protozero_INCLUDE_DIR)
endif()
