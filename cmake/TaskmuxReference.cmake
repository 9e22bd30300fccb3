# The API reference as HTML, by Doxygen: target `reference`, if Doxygen is installed. It covers the public headers;
# README.md is its first page. A warning of Doxygen fails the target.
find_package(Doxygen QUIET)
if(NOT DOXYGEN_FOUND)
  return()
endif()

file(GLOB_RECURSE taskmux_reference_headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/include/taskmux/*.hpp)
list(FILTER taskmux_reference_headers EXCLUDE REGEX "/detail/")

set(DOXYGEN_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/reference)
set(DOXYGEN_USE_MDFILE_AS_MAINPAGE ${CMAKE_CURRENT_SOURCE_DIR}/README.md)
set(DOXYGEN_STRIP_FROM_PATH ${CMAKE_CURRENT_SOURCE_DIR}/include)
set(DOXYGEN_STRIP_FROM_INC_PATH ${CMAKE_CURRENT_SOURCE_DIR}/include)
set(DOXYGEN_INCLUDE_PATH ${CMAKE_CURRENT_SOURCE_DIR}/include)
set(DOXYGEN_BUILTIN_STL_SUPPORT YES)
set(DOXYGEN_JAVADOC_AUTOBRIEF YES)  # The first sentence of a comment is the summary.
set(DOXYGEN_EXTRACT_LOCAL_CLASSES NO)
set(DOXYGEN_HIDE_SCOPE_NAMES NO)
set(DOXYGEN_EXCLUDE_SYMBOLS taskmux::detail taskmux::v0::detail)
set(DOXYGEN_MACRO_EXPANSION YES)
set(DOXYGEN_EXPAND_ONLY_PREDEF YES)
set(DOXYGEN_PREDEFINED TASKMUX_API= TASKMUX_INLINE=inline
    "TASKMUX_GUARDED_BY(x)=" "TASKMUX_REQUIRES(x)=" "TASKMUX_EXCLUDES(x)=")
set(DOXYGEN_GENERATE_LATEX NO)
set(DOXYGEN_HAVE_DOT NO)
set(DOXYGEN_QUIET YES)
set(DOXYGEN_WARN_IF_UNDOCUMENTED NO)  # Self-explanatory names need no comment.
set(DOXYGEN_WARN_NO_PARAMDOC NO)
set(DOXYGEN_WARN_AS_ERROR FAIL_ON_WARNINGS)
doxygen_add_docs(reference ${CMAKE_CURRENT_SOURCE_DIR}/README.md ${taskmux_reference_headers}
                 COMMENT "Writing the API reference to ${DOXYGEN_OUTPUT_DIRECTORY}/html")
