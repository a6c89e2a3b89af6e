# One library a room. Headers are included as "room/file.hpp" from the top of the tree.
include(GNUInstallDirs)
find_program(CCACHE ccache)
if(CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${CCACHE}")
endif()

add_library(troupe_options INTERFACE)
target_include_directories(troupe_options INTERFACE "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}>"
                                                    "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/troupe>")
add_library(troupe_warnings INTERFACE)
# -ffp-contract=off: a compiler that fuses a*b+c where the target allows it would give each instruction set
# its own logits; kernels ask for fma explicitly.
target_compile_options(troupe_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Werror -ffp-contract=off>)
if(TROUPE_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${TROUPE_SANITIZE}> -fno-omit-frame-pointer)
  if(TROUPE_SANITIZE MATCHES "undefined")
    # CAF 0.17.6 binds null references in its own templates (platform notes, section 1).
    add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=null,vptr> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=undefined>)
  endif()
  if(TROUPE_SANITIZE MATCHES "thread")
    # GCC 12 takes the temporary of a variant for uninitialized between this sanitizer's calls. Run with UCX_MEM_EVENTS=no, for UCX
    # and the sanitizer both replace mmap. CAF is not built with it: of messages that go by actors it reports races.
    add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)
  endif()
  add_link_options(-fsanitize=${TROUPE_SANITIZE})
endif()

# troupe_room(name [DEPENDS libs...] [PRIVATE libs...]): a static library of every .cpp in this folder
# (and in SUBDIRS), named troupe_<name>.
function(troupe_room name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;PRIVATE;SUBDIRS;EXCLUDE" ${ARGN})
  set(globs "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  foreach(dir ${ARG_SUBDIRS})
    list(APPEND globs "${CMAKE_CURRENT_SOURCE_DIR}/${dir}/*.cpp")
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${globs})
  foreach(pattern ${ARG_EXCLUDE})
    list(FILTER sources EXCLUDE REGEX "${pattern}")
  endforeach()
  if(NOT sources)
    add_library(troupe_${name} INTERFACE)
    target_link_libraries(troupe_${name} INTERFACE troupe_options ${ARG_DEPENDS} ${ARG_PRIVATE})
    return()
  endif()
  add_library(troupe_${name} STATIC ${sources})
  target_link_libraries(troupe_${name} PUBLIC troupe_options ${ARG_DEPENDS}
                        PRIVATE $<BUILD_INTERFACE:troupe_warnings> ${ARG_PRIVATE})
  # Kernels are compiled for the instruction set in their file's name and chosen at run time.
  foreach(source ${sources})
    if(source MATCHES "_avx512\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "-O3;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mfma;-mf16c;-mprefer-vector-width=512")
    elseif(source MATCHES "_avxvnni\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma;-mf16c;-mavxvnni")
    elseif(source MATCHES "_avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma;-mf16c")
    elseif(source MATCHES "_portable\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-O3")
    endif()
  endforeach()
endfunction()
