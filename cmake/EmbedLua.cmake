# Joins each of SCRIPTS with the files of LIBRARY that it uses, and writes the texts to HEADER, as string literals, and
# each to a file in FOLDER, where the line can be looked up that an error of Redis names.
#
# The first line of each file says which files of the library it uses, "-- uses: <name>...". Those come before it, and
# before them what they use, each once. Comments are left out; what is kept in FOLDER is what Redis is sent.
cmake_minimum_required(VERSION 3.25)

# uses_of(<file> <variable>): the names in the first line of <file>.
function(uses_of file variable)
  file(STRINGS ${file} lines LIMIT_COUNT 1)
  if(NOT lines MATCHES "^-- uses:(( [a-z_]+)*)$")
    message(FATAL_ERROR "${file}: the first line is not \"-- uses: <name>...\"")
  endif()
  string(STRIP "${CMAKE_MATCH_1}" names)
  string(REPLACE " " ";" names "${names}")
  set(${variable} "${names}" PARENT_SCOPE)
endfunction()

# require_file(<name> <user> <trail>): appends the library file <name> and what it uses to `order`. <trail> names the
# files that lead to it.
function(require_file name user trail)
  if(name IN_LIST trail)
    message(FATAL_ERROR "${user}: the libraries ${trail} use each other in a circle")
  endif()
  if(name IN_LIST order)
    return()
  endif()
  set(file ${LIBRARY}/${name}.lua)
  if(NOT EXISTS ${file})
    message(FATAL_ERROR "${user}: there is no ${file}")
  endif()
  uses_of(${file} uses)
  foreach(used IN LISTS uses)
    require_file(${used} ${file} "${trail};${name}")
  endforeach()
  list(APPEND order ${name})
  set(order "${order}" PARENT_SCOPE)
endfunction()

# text_of(<file> <variable>): its code, without lines that are comments alone and without empty lines.
function(text_of file variable)
  file(READ ${file} text)
  string(REGEX REPLACE "(^|\n) *--[^\n]*" "\\1" text "${text}")
  string(REGEX REPLACE "\n\n+" "\n" text "\n${text}")
  string(SUBSTRING "${text}" 1 -1 text)
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()

set(header "// Made from the files in src/redis/scripts by cmake/EmbedLua.cmake.\n#pragma once\n\n#include <string_view>\n")
string(APPEND header "\nnamespace taskmux::redis::lua {\n")
foreach(script IN LISTS SCRIPTS)
  get_filename_component(name ${script} NAME_WE)
  uses_of(${script} uses)
  set(order "")
  foreach(used IN LISTS uses)
    require_file(${used} ${script} "")
  endforeach()
  set(joined "")
  foreach(part IN LISTS order)
    text_of(${LIBRARY}/${part}.lua text)
    string(APPEND joined "-- lib/${part}.lua\n${text}")
  endforeach()
  text_of(${script} text)
  string(APPEND joined "-- ${name}.lua\n${text}")
  file(WRITE ${FOLDER}/${name}.lua "${joined}")
  string(APPEND header "\ninline constexpr std::string_view ${name} = R\"lua(${joined})lua\";\n")
endforeach()
string(APPEND header "\n}  // namespace taskmux::redis::lua\n")
file(WRITE ${HEADER} "${header}")
