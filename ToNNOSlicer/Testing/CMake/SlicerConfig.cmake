# A small stand-in for the CMake package of a Slicer build: the few names that a scripted extension uses, written
# for this repository's packaging test. It copies files and packs them; it compiles nothing and runs no Slicer.
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/UseStandInSlicer.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/StandInDescription.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/StandInPack.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR "lib/Slicer-5.10/qt-scripted-modules")
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")

# The real package stops here too: CMake knows the size of a pointer only where a project has a compiled language.
set(Slicer_CMAKE_SIZEOF_VOID_P "8")
if(NOT Slicer_CMAKE_SIZEOF_VOID_P EQUAL CMAKE_SIZEOF_VOID_P)
  message(FATAL_ERROR "Mismatch between bitness of '${CMAKE_PROJECT_NAME}' and Slicer: "
    "${Slicer_CMAKE_SIZEOF_VOID_P} bytes expected, CMAKE_SIZEOF_VOID_P is '${CMAKE_SIZEOF_VOID_P}'")
endif()
