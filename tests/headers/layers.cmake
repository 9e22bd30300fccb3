# Checks the direction of includes, folder by folder: a folder may include itself and the folders that are named for it
# here, so nothing includes a higher layer. Adapters and engine meet only in the application, and in taskmux.hpp.
cmake_minimum_required(VERSION 3.25)
set(failures "")
set(checked "")

# layer(<folder> MAY_INCLUDE <regex of headers>... [FILES <name>...]): all files in <folder>, or the named ones. Headers
# that are not ours are always allowed.
function(layer folder)
  cmake_parse_arguments(arg "" "" "MAY_INCLUDE;FILES" ${ARGN})
  if(arg_FILES)
    list(TRANSFORM arg_FILES PREPEND ${SOURCE_DIR}/${folder}/ OUTPUT_VARIABLE files)
  else()
    file(GLOB files ${SOURCE_DIR}/${folder}/*.hpp ${SOURCE_DIR}/${folder}/*.cpp)
  endif()
  if(NOT files)
    string(APPEND failures "\n  ${folder} has no files")
  endif()
  string(REGEX REPLACE "^(include|src)/" "" own "${folder}")
  list(JOIN arg_MAY_INCLUDE "|" allowed)
  if(NOT arg_FILES)
    string(APPEND allowed "|${own}/[a-z0-9_]+\\.hpp")
  endif()
  foreach(file IN LISTS files)
    file(RELATIVE_PATH name ${SOURCE_DIR} ${file})
    list(APPEND checked ${name})
    file(STRINGS ${file} lines REGEX "^ *# *include *[<\"](taskmux|redis)/")
    foreach(line IN LISTS lines)
      if(NOT line MATCHES "[<\"](${allowed})[>\"]")
        string(APPEND failures "\n  ${name}: ${line}")
      endif()
    endforeach()
  endforeach()
  set(failures "${failures}" PARENT_SCOPE)
  set(checked "${checked}" PARENT_SCOPE)
endfunction()

set(base "taskmux/detail/base/[a-z0-9_]+\\.hpp")
set(run "taskmux/detail/run/[a-z0-9_]+\\.hpp")
set(values "taskmux/(task|error|version)\\.hpp")
set(ports "taskmux/(broker|broker_wrapper|queue_view|registry|clock|retry|logger)\\.hpp")
# The bodies of headers of values and ports belong to those layers.
set(port_bodies "taskmux/detail/api/logger\\.hpp")
set(handlers "taskmux/(handler|serve_mux|server_config)\\.hpp")

set(include include/taskmux)
layer(${include} FILES task.hpp error.hpp version.hpp MAY_INCLUDE ${values} ${base})
layer(${include} FILES broker.hpp broker_wrapper.hpp queue_view.hpp registry.hpp clock.hpp retry.hpp logger.hpp
      MAY_INCLUDE ${values} ${ports} ${port_bodies} ${base})
layer(${include}/detail/base MAY_INCLUDE ${values})
layer(${include}/detail/run MAY_INCLUDE ${values} ${ports} ${handlers} ${base}
      "taskmux/detail/api/handler\\.hpp")
layer(${include}/detail/engine MAY_INCLUDE ${values} ${ports} ${port_bodies} ${handlers} ${base} ${run})

set(api "taskmux/(handler|serve_mux|client|server|server_config|inspector|dead_letter_queue|signals|json|testing)\\.hpp")
set(bodies "taskmux/detail/api/[a-z0-9_]+\\.hpp")
layer(${include} MAY_INCLUDE ${values} ${ports} ${api} ${bodies} ${base}
      "taskmux/detail/run/(request_maker|run_state)\\.hpp" "taskmux/detail/engine/server_engine\\.hpp"
      FILES handler.hpp serve_mux.hpp client.hpp server.hpp server_config.hpp inspector.hpp
            dead_letter_queue.hpp signals.hpp json.hpp testing.hpp)
layer(${include}/detail/api MAY_INCLUDE ${values} ${ports} ${api} ${base} ${run}
      "taskmux/detail/engine/server_engine\\.hpp")

# An adapter may use the values, the ports, and the rules of what a settlement does to a task.
set(settlement "taskmux/detail/run/(settlement|transition)\\.hpp")
layer(${include}/memory MAY_INCLUDE ${values} ${ports} ${base} ${settlement} "taskmux/detail/memory/[a-z0-9_]+\\.hpp")
layer(${include}/detail/memory MAY_INCLUDE ${values} ${ports} ${base} ${settlement} "taskmux/memory/[a-z0-9_]+\\.hpp")

set(redis_base ${values} ${ports} ${base} ${settlement} "taskmux/redis/redis_options\\.hpp")
layer(${include}/redis MAY_INCLUDE ${values} ${ports} ${base})
layer(src/redis/asynq MAY_INCLUDE ${redis_base})
layer(src/redis/scripts)
layer(src/redis/net MAY_INCLUDE ${redis_base} "redis/options\\.hpp" "redis/scripts/[a-z0-9_]+\\.hpp")
layer(src/redis/route MAY_INCLUDE ${redis_base} "redis/options\\.hpp" "redis/(scripts|net)/[a-z0-9_]+\\.hpp")
layer(src/redis/session MAY_INCLUDE ${redis_base} "redis/(asynq|scripts|net|route)/[a-z0-9_]+\\.hpp")
layer(src/redis/watch MAY_INCLUDE ${redis_base} "redis/(asynq|scripts|net|route|session)/[a-z0-9_]+\\.hpp")
layer(src/redis/ops MAY_INCLUDE ${redis_base} "redis/(asynq|scripts|net|route|session|watch)/[a-z0-9_]+\\.hpp")
layer(src MAY_INCLUDE "taskmux/taskmux\\.hpp" ${bodies} "taskmux/detail/memory/broker\\.hpp")
layer(src/redis MAY_INCLUDE ${redis_base} "taskmux/redis/redis_broker\\.hpp"
      "redis/(asynq|scripts|net|route|session|ops|watch)/[a-z0-9_]+\\.hpp")

# Every file belongs to a layer, except taskmux.hpp.
file(GLOB_RECURSE all RELATIVE ${SOURCE_DIR} ${SOURCE_DIR}/include/*.hpp ${SOURCE_DIR}/src/*.hpp ${SOURCE_DIR}/src/*.cpp)
list(REMOVE_ITEM all ${checked} include/taskmux/taskmux.hpp)
foreach(file IN LISTS all)
  string(APPEND failures "\n  ${file} belongs to no layer")
endforeach()

if(failures)
  message(FATAL_ERROR "against the layers:${failures}")
endif()
