# Installs BUILD_DIR (of configuration CONFIG) to PREFIX through another folder: the package must be relocatable.
cmake_minimum_required(VERSION 3.25)
set(made ${PREFIX}-before-move)
file(REMOVE_RECURSE ${PREFIX} ${made})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${made} --config "${CONFIG}"
                OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)

file(GLOB_RECURSE package_files ${made}/*.cmake)
foreach(package_file IN LISTS package_files)
  file(READ ${package_file} text)
  foreach(folder ${BUILD_DIR} ${SOURCE_DIR})
    string(FIND "${text}" "${folder}" position)
    if(NOT position EQUAL -1)
      message(FATAL_ERROR "${package_file} names ${folder}")
    endif()
  endforeach()
endforeach()
file(RENAME ${made} ${PREFIX})
