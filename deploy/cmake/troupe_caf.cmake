# The target `caf`. CAF 0.17.6's Debian package brings no CMake files, so both our build and, installed beside
# troupe-config.cmake, the builds of programs that use us find it here.
find_package(Threads REQUIRED)
find_path(CAF_INCLUDE_DIR caf/typed_actor.hpp REQUIRED)
find_library(CAF_CORE caf_core REQUIRED)
find_library(CAF_IO caf_io REQUIRED)
mark_as_advanced(CAF_INCLUDE_DIR CAF_CORE CAF_IO)
if(NOT TARGET caf)
  add_library(caf INTERFACE IMPORTED)
  target_include_directories(caf SYSTEM INTERFACE "${CAF_INCLUDE_DIR}")
  target_link_libraries(caf INTERFACE "${CAF_IO}" "${CAF_CORE}" Threads::Threads)
  # A message type that was not registered is then a compile error, not a run-time one.
  target_compile_definitions(caf INTERFACE CAF_ENABLE_TYPE_ID_CHECKS)
endif()
