# EmbedLua.cmake: the order of what is joined, the names of arguments on both sides, and what it refuses.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${FOLDER})

# embed(<variable of the output> <text of main.lua> [<name> <text of the library file>]...)
function(embed variable main)
  file(REMOVE_RECURSE ${FOLDER}/lib)
  file(WRITE ${FOLDER}/main.lua "${main}")
  while(ARGN)
    list(POP_FRONT ARGN name text)
    file(WRITE ${FOLDER}/lib/${name}.lua "${text}")
  endwhile()
  execute_process(COMMAND ${CMAKE_COMMAND} -DSCRIPTS=${FOLDER}/main.lua -DLIBRARY=${FOLDER}/lib -DFOLDER=${FOLDER}/joined
                          -DARGUMENTS=${FOLDER}/arguments.hpp -DTEXTS=${FOLDER}/texts.hpp -P ${SOURCE_DIR}/cmake/EmbedLua.cmake
                  ERROR_VARIABLE errors RESULT_VARIABLE result)
  if(result EQUAL 0)
    file(READ ${FOLDER}/joined/main.lua joined)
    set(${variable} "${joined}" PARENT_SCOPE)
  else()
    string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
    set(${variable} "refused: ${errors}" PARENT_SCOPE)
  endif()
endfunction()

function(expect_match what text pattern)
  if(NOT text MATCHES "${pattern}")
    message(SEND_ERROR "${what}: \"${text}\" does not match \"${pattern}\"")
  endif()
endfunction()

embed(joined "-- uses: b a\n-- args:\n\n-- Says so.\nreturn a(b)\n" a "-- uses: c\nlocal a\n" b "-- uses: c\nlocal b -- here\n"
      c "-- uses:\n\nlocal c = 'x y'\n")
expect_match("what is used comes first, and once" "${joined}"
             "^-- lib/c.lua\nlocal c = 'x y'\n-- lib/b.lua\nlocal b -- here\n-- lib/a.lua\nlocal a\n-- main.lua\nreturn a.b.\n$")
file(READ ${FOLDER}/texts.hpp header)
string(FIND "${header}" "main = R\"lua(${joined})lua\"" at)
if(at EQUAL -1)
  message(SEND_ERROR "the header of texts does not hold the joined text: ${header}")
endif()

embed(refused "-- uses: nobody\n-- args:\nreturn 1\n")
expect_match("an unknown name is refused" "${refused}" "^refused: .*main.lua: there is no .*nobody.lua")
embed(refused "-- uses: a\n-- args:\nreturn 1\n" a "-- uses: b\n" b "-- uses: a\n")
expect_match("a circle is refused" "${refused}" "^refused: .*in a circle")
embed(refused "return 1\n")
expect_match("a first line that does not say what is used is refused" "${refused}" "^refused: .*main.lua: the first line")

# What a script takes has names in Lua ...
set(takes "-- keys: list\n-- each box: lid size\n-- args: one two\n-- each pair: left right\n-- each last: word\n")
set(reads "f(list, KEYS[box_first + box_lid], box_size, one, two, pair_first, pair_left, pair_right, pair_width)\n")
embed(joined "-- uses:\n${takes}\n${reads}")
expect_match("names of arguments are variables, and those of places are numbers" "${joined}"
             "^-- main.lua\nlocal ARGV = ARGV\nlocal list = KEYS.1.\nlocal one, two = ARGV.1., ARGV.2.\n\
f.list, KEYS.2., 1, one, two, 3, 0, 1, 2.\n$")
embed(joined "-- uses:\n-- args:\n-- each pair: left right\nf(ARGV[at + pair_left], ARGV[pair_left + at], my_pair_left, 'pair_left', pair_right)\n")
expect_match("nothing is added to where a record begins" "${joined}"
             "ARGV.at., ARGV.0 . at., my_pair_left, 'pair_left', 1.\n$")
embed(joined "-- uses: clock\n-- args: one\nf(one)\n" clock "-- uses:\nlocal now\n")
expect_match("arguments follow the time that `clock` takes" "${joined}" "\nlocal one = ARGV.3.\n")
set(variants "-- args:\n-- each run end: action='e' id\n-- each run again: action='a' id in_seconds\n")
set(reads_all "f(run_action, run_id, run_in_seconds, run_end_width, run_again_width)\n")
embed(joined "-- uses:\n${variants}${reads_all}")
expect_match("variants share fields" "${joined}"
             "\nf.0, 1, 2, 2, 3.\n$")

# ... and in C++.
file(READ ${FOLDER}/arguments.hpp arguments)
string(REGEX REPLACE "[ \n]+" " " arguments "${arguments}")
expect_match("a script without arguments has a struct" "${arguments}"
             "struct Main { static constexpr auto script = &Scripts::main; void append_to.std::vector<std::string>& /.args./. && {} ")
expect_match("a field that has a text is not asked for" "${arguments}"
             "struct End { Argument id; void append_to.std::vector<std::string>& args. && { \
args.emplace_back.\"e\".; std::move.id..append_to.args.; } };")

# refuses(<what> <lines after the first> <what is said>)
function(refuses what lines said)
  embed(refused "-- uses:\n${lines}")
  expect_match("${what} is refused" "${refused}" "^refused: .*main.lua: ${said}")
endfunction()
refuses("a script that does not name its arguments" "return 1\n" "no line \"-- args: <name>...\"")
refuses("a name in capitals" "-- args: One\nf(One)\n" "\"-- args: One\" is not ")
refuses("a group without fields" "-- args:\n-- each pair:\nreturn 1\n" "\"-- each pair:\" is not ")
refuses("a group of nothing" "-- each pair: left\n-- args:\nf(pair_left)\n" "\"-- each pair: left\" is not ")
refuses("a second line of arguments" "-- args: one\n-- args: two\nf(one, two)\n" "\"-- args: two\" is the second such line")
refuses("a line of arguments between the code" "-- args:\n\n-- args: one\nf(one)\n" "\"-- args: one\" does not follow")
refuses("a group between the code" "-- args:\n\n-- each pair: left\nf(pair_left)\n" "\"-- each pair: left\" does not follow")
refuses("a name twice" "-- args: one one\nf(one)\n" "one would be both ARGV.1. and ARGV.2.")
refuses("a name of a key and an argument" "-- keys: one\n-- args: one\nf(one)\n" "one would be both KEYS.1. and ARGV.1.")
refuses("a field twice" "-- args:\n-- each pair: left left\nf(pair_left)\n" "pair_left would be both 0 and 1")
refuses("a field of variants at two places" "-- args:\n-- each run end: id why\n-- each run again: why\nf(run_id, run_why)\n"
        "run_why would be both 1 and 0")
refuses("an argument that is not read" "-- args: one two\nf(one, twofold, 'on', \"my_two\")\n" "the script does not read two")
refuses("a field that is not read" "-- args:\n-- each pair: left right\nf(pair_left)\n" "the script does not read pair_right")
refuses("an argument by its number" "-- args: one\nf(one, ARGV[2])\n" "ARGV.2. is read by its number")
refuses("a field by its number" "-- args:\n-- each pair: left\nf(ARGV[at + 1])\n" "ARGV.at . 1. is read by its number")
refuses("a key by its number" "-- keys: one\n-- args:\nf(one, KEYS[2])\n" "KEYS.2. is read by its number")
