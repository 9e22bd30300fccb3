# Checks src/redis/README.md against the code: it names each private field and key that keys.hpp names, and no other; it
# names each folder; and as writers and removers of a field it names only scripts that exist.
cmake_minimum_required(VERSION 3.25)
set(folder ${SOURCE_DIR}/src/redis)
file(READ ${folder}/README.md readme)
file(READ ${folder}/asynq/keys.hpp keys)

# names_in(<text> <variable>): the private names in <text>, sorted.
function(names_in text variable)
  string(REGEX MATCHALL "tmx[_:][a-z]+" names "${text}")
  list(REMOVE_DUPLICATES names)
  list(SORT names)
  set(${variable} "${names}" PARENT_SCOPE)
endfunction()

names_in("${readme}" in_readme)
names_in("${keys}" in_keys)
if(NOT in_readme STREQUAL in_keys)
  message(SEND_ERROR "README.md names ${in_readme}; keys.hpp names ${in_keys}")
endif()

file(GLOB parts RELATIVE ${folder} ${folder}/*)
foreach(part IN LISTS parts)
  if(IS_DIRECTORY ${folder}/${part} AND NOT readme MATCHES "`${part}/`")
    message(SEND_ERROR "README.md does not name the folder ${part}")
  endif()
endforeach()

string(REGEX MATCHALL "\n\\| `tmx[^\n]*" rows "${readme}")
foreach(row IN LISTS rows)
  string(REGEX REPLACE "^\n\\|[^|]*\\|[^|]*" "" scripts "${row}")
  string(REGEX MATCHALL "`[a-z_]+`" scripts "${scripts}")
  foreach(script IN LISTS scripts)
    string(REPLACE "`" "" script "${script}")
    if(NOT EXISTS ${folder}/scripts/${script}.lua)
      message(SEND_ERROR "README.md names the script ${script}, which does not exist: ${row}")
    endif()
  endforeach()
endforeach()
